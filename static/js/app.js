// Page-wide events that attributes cannot express, one module per subject. Without them everything on the page still
// works, a little slower.

import "./clock.js";
import "./poll.js";
import "./banner.js";
import "./say.js";
import "./notify.js";
import "./dialog.js";
import "./form.js";
import "./ask.js";
import "./copy.js";
import "./log.js";
