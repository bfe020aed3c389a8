"""The guided teacher's own images as real ones, drawn by workers."""
