"""What the pages share: selection and links, cached reading, common parts."""
