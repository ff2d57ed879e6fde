'use strict'

const { run } = require('./launch.js')

// without the programs, main has done nothing that could be ended
if (process.env.STATE_bin) run(process.env.STATE_bin, 'post')
