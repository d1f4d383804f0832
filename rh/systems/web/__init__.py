"""What systems that speak to web servers share: a careful client, and what its answers mean."""
