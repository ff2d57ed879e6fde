'use strict'

const { fail, install, run } = require('./launch.js')

// without the programs, main has done nothing that could be ended
const dir = process.env.STATE_bin
if (dir) install(dir).then((dir) => run(dir, 'post')).catch(fail)
