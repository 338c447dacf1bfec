"""Agents: processes that connect minds with hands. No agent imports another; what they share is the runtime below them."""
