"""The Streamlit pages: layout, widgets, selection. No analysis happens here."""
