"""One self-contained HTML page about a run: what came out, how good it is, how to make it again.

`record` reads what the stages wrote and says it in numbers, `figures` draws it, and `page` puts it
together. Needs the extra `report`.
"""
