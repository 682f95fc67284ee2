# The work pools. `make deploy` makes them too, and leaves those that are there as they are named.

terraform {
  required_providers {
    prefect = {
      source  = "prefecthq/prefect"
      version = "~> 2.0"
    }
  }
}

resource "prefect_work_pool" "copies" {
  name   = "understudy"
  type   = "process"
  paused = false
}

# Of its own, so that no backlog of copies stands before a failover. Without a concurrency limit: plan-failover runs in
# it too.
resource "prefect_work_pool" "failover" {
  name   = "understudy-failover"
  type   = "process"
  paused = false
}

# Its workers run as the pruner, the one identity that may delete in the vault.
resource "prefect_work_pool" "prune" {
  name   = "understudy-prune"
  type   = "process"
  paused = false
}
