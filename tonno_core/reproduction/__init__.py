"""The paper's figures and tables, a module each: what it is made of goes in, files come out."""
