"""``python -m tests.fuzz.atheris_vectors -max_total_time=60``: a manifest of an index, guided by coverage."""

from tests.fuzz.guided import run

if __name__ == "__main__":
    run("vectors")
