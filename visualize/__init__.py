"""Drawing boxes, masks, keypoints and sheets of pictures."""
