"""Baseline JPEG files: their markers, their Huffman codes, and the decoder for the box that crops show."""
