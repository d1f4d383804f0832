"""The program that runs on the far side of an SSH link: standard library only, Python 3.7 or newer, streamed there."""
