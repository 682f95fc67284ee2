"""``python -m tests.fuzz.atheris_features -max_total_time=60``: a manifest of features, guided by coverage."""

from tests.fuzz.guided import run

if __name__ == "__main__":
    run("features")
