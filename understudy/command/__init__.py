"""The command line: a second skin over the product, beside the Prefect one."""
