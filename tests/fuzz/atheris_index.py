"""``python -m tests.fuzz.atheris_index -max_total_time=60``: a shard of the index, guided by coverage."""

from tests.fuzz.guided import run

if __name__ == "__main__":
    run("index")
