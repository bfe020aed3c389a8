"""A run as a whole: what it needs and is made of, its folder, its end."""
