"""``python -m tests.fuzz.atheris_manifest -max_total_time=60``: a manifest of a model, guided by coverage."""

from tests.fuzz.guided import run

if __name__ == "__main__":
    run("manifest")
