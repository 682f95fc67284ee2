"""``python -m tests.fuzz.atheris_trailer -max_total_time=60``: a pack and the frames in it, guided by coverage."""

from tests.fuzz.guided import run

if __name__ == "__main__":
    run("trailer")
