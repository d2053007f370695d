"""The report over runs or a study: what lies in the folders as records, then tables, figures and a page of them."""
