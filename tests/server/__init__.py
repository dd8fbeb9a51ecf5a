"""How does the HTTP server behave towards real clients, honest and hostile?"""
