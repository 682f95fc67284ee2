"""``python -m tests.fuzz.atheris_header -max_total_time=60``: a safetensors file, guided by coverage."""

from tests.fuzz.guided import run

if __name__ == "__main__":
    run("header")
