"""How does a model say that it thinks, or calls a tool? One description a format; pure parsers and grammars.

`speech.py` reads off a chat template which format its model speaks, `listen.py` turns raw text into events,
`grammar.py` writes what a model may say, `conversation.py` gives the template what it takes.
"""
