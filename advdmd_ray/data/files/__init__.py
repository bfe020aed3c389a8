"""Captioned images on disk: read from folders, Parquet or WebDataset files, encoded once, kept as Arrow."""
