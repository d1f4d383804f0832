"""What tests of `rh` and of its plug-ins are made of: real servers, a wire-fault proxy, conformance suites.

Ships with the library, so that whoever adds a system proves it the same way.
"""
