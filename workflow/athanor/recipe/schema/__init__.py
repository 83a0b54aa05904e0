"""The recipe as dataclasses, by what part of a campaign a section is about."""
