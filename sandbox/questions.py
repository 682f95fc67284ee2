"""The questions that are asked before the disaster and again after it."""

from __future__ import annotations

QUESTIONS = (
    "How do I turn an object into JSON text?",
    "How can I copy a whole directory tree?",
    "keep the results of expensive function calls in a cache",
    "How do I push an item onto a heap?",
    "create a temporary directory that only I can read",
    "Which function wraps a long paragraph to a given width?",
    "find words that are close to a misspelled one",
    "How do I parse command line arguments?",
    "ignore certain exceptions in a block of code",
    "encode bytes with base64",
    "How do I read rows from a CSV file?",
    "the median of a list of numbers",
    "send an e-mail over SMTP",
    "Which class counts hashable things?",
    "start a child process and capture its output",
    "wait until several asynchronous tasks are done",
    "split a URL into its parts",
    "compress data with gzip",
    "make a secure random token for a password reset",
    "compare two directories and list what differs",
)
