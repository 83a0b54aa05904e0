"""The corpora: fetch, read, split, shuffle, tokenize, mix."""
