"""What passes between the sites: how fast it may, how much in a month, and how hard it is worth to make it less."""
