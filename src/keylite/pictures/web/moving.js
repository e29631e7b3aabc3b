// Moving pictures: the frames of a video's file, and those of a camera.

/** A video's file, playing without sound, over and over. */
export async function videoOf(file) {
  const url = URL.createObjectURL(file);
  try {
    return moving(await playing({src: url, loop: true}), false, () => URL.revokeObjectURL(url));
  } catch {
    URL.revokeObjectURL(url);
    throw new Error("this browser cannot play it");
  }
}

/** A camera. facing: "environment" or "user"; a device with one camera takes that one. */
export async function cameraOf(facing) {
  if (!navigator.mediaDevices) {
    throw new Error("A browser opens a camera only for pages from https or localhost; this page is from neither.");
  }
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({video: {facingMode: {ideal: facing}}, audio: false});
  } catch (error) {
    throw new Error(REFUSALS[error.name] ?? `The camera cannot be opened: ${error.message}`);
  }
  const devices = await navigator.mediaDevices.enumerateDevices();
  const cameras = devices.filter((device) => device.kind === "videoinput").length;
  const end = () => stream.getTracks().forEach((track) => track.stop());
  return {...moving(await playing({srcObject: stream}), true, end), facing, cameras};
}

const REFUSALS = {
  NotAllowedError: "The browser does not let this page use the camera; allow it in the settings of the page.",
  NotFoundError: "No camera was found.",
  NotReadableError: "Another program uses the camera.",
};

async function playing(source) {
  const video = Object.assign(document.createElement("video"), {muted: true, playsInline: true}, source);
  await video.play();
  return video;
}

function moving(video, live, end) {
  return {
    video,
    live,
    width: video.videoWidth,
    height: video.videoHeight,
    length: !live && Number.isFinite(video.duration) ? video.duration : 0, // seconds; 0: it has no end
    place: () => video.currentTime,
    seek: (share) => { video.currentTime = share * video.duration; },
    playing: () => !video.paused,
    toggle: () => (video.paused ? video.play() : video.pause()),
    stop: () => {
      video.pause();
      end();
    },
  };
}

/** The frames as bitmaps, each when the last one is done with; frames in between are left out. */
export async function* framesOf({video}, goesOn) {
  while (goesOn()) {
    await new Promise((ready) => {
      if (video.requestVideoFrameCallback) video.requestVideoFrameCallback(ready);
      else requestAnimationFrame(ready);
    });
    if (goesOn()) yield createImageBitmap(video);
  }
}
