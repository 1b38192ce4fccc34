"""How a patient's identifiers are written and compared."""

import unicodedata


def spelled(identifier: str) -> str:
    """Write an identifier as it is compared: without spaces at its ends, inner ones as one, width and case put aside.

    PS3.5 6.2: spaces before and after a value of VR LO are padding. Case is significant there; hospitals' programs
    change it all the same, and whose IDs differ in case alone are better taken for one than put on two sides. Width is
    that of letters and digits in East Asian character sets (Unicode NFKC).
    """
    return " ".join(unicodedata.normalize("NFKC", identifier).casefold().split())


def qualified(patient_id: str, issuer: str) -> str:
    """Write a PatientID with its issuer, as HL7 does in its type CX: `ID^^^ISSUER`."""
    return f"{patient_id}^^^{issuer}" if issuer else patient_id
