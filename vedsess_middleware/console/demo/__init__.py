"""`vedsess demo`: one session in two apps over two stores, of which Redis may be killed at any time."""
