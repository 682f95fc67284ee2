"""How many instances serve at a site."""
