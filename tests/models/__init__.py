"""Language models for tests: a local server that speaks the providers' protocols and says what a script tells it."""
