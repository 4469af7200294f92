"""Image classification on the same core: the paper's COVID-19 CT task, and any folder of class folders."""
