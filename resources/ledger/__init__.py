"""resources/ledger"""
