"""The least that each identity needs, as the policies of AWS and Google Cloud, from the config alone."""
