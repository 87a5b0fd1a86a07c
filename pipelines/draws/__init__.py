"""All chance: which images, which crops, which colours, how they are mixed; functions of (seed, epoch, place)."""
