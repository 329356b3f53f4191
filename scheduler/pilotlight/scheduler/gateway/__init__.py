"""The part that faces clients: text, tokens and routes.

Import the module that you need. `backend` is the line through it: behind it are
token ids and the router, before it text (`text_generator`) and its two doors,
HTTP (`http_app`, `http_server`) and gRPC (`generate_rpc`).
"""
