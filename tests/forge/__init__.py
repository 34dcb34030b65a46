"""A GitHub of our own for tests: REST and git over HTTP on a real bare repository, checked by GitHub's description."""
