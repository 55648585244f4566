"""Moved to the package's top."""

if __name__ == "__main__":
    raise SystemExit("python -m roberta_jax.data.beam is python -m roberta_jax.prepare --beam now.")
