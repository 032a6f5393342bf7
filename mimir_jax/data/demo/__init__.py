"""The files of the embedded example; README.md is their data card, `mimir_jax.data.embedded` reads them."""
