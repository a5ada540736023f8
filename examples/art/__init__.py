"""The pictures of the example, one module each; ``make_example.py`` runs them."""
