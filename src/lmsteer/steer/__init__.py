"""Steers: hidden states become steered hidden states; also the card, the files and the notation of a steer."""
