"""From a bundle to what runs without torch: ONNX or OpenVINO, checked against the bundle before it is finished."""
