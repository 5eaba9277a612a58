"""tests.pipelines"""
