"""The Ray shell: one small file per actor. Nothing outside this package imports ray."""
