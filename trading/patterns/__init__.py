"""trading/patterns"""
