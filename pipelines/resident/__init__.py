"""Small sets that are held in memory whole, the host's or the device's."""
