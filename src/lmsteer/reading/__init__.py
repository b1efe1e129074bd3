"""What a steer says of texts: their likelihood as a function of its strength."""
