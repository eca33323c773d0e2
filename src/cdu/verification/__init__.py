"""Verification: does a change of the code, or another machine, move any number?"""
