"""Training of the models that attacks are studied on."""
