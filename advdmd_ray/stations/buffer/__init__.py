"""The trajectory buffer: Arrow schema, codec, and the index that owns row state (never the bytes)."""
