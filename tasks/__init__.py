"""The Prefect skin: one task a function of understudy."""

from understudy.process import settle

settle()  # a process that loads this is there to run flows
